"""Devices, processes, workdirs, locks, checkpoints, storage and progress."""
