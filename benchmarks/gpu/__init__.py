"""Everything that a GPU is needed for, in one command of a few minutes: ``python -m benchmarks.gpu --out DIR``.

`parts` lists what is measured; each part is one module with its cases. `supervise` runs a part in a process of its own,
`child`, within a time limit; `document` writes the results after every case.
"""
