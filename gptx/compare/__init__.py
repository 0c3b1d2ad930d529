"""The comparison room: run folders in, a table of variants with error bars out (terminal, CSV, JSON, SVG)."""
