"""Plan: memory, operations and hours of a job, before it is started."""
