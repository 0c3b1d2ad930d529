"""The comparison: reads run folders and writes a table of variants with error bars (terminal, CSV, JSON, SVG)."""
