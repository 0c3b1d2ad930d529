"""Learning-rate schedules: pure functions of the step. One file per variant."""
