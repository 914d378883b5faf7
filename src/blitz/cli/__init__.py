"""The command line: Hydra, exit codes, one-line errors, and the processes of a job."""
