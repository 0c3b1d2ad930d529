"""Which differences between variants are real: effects with intervals, verdicts, power, and sequential designs."""
