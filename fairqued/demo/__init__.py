"""`fairqued demo`: the main job, live, on the real files of Python's standard library."""
