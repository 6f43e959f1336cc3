"""The worker: one process that fetches tasks and runs them."""
