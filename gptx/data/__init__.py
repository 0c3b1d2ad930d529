"""Turn text into batches: corpora, token files, and the rows of each step. numpy only, without torch."""
