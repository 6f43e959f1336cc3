"""The daemon: the master process, its configuration and what it hosts."""
