"""Runtime: devices and processes, signals, progress, errors; knows nothing of the method."""
