"""The shell around `aha_core`: files, tracking, processes and commands. DVC decides what runs."""
