"""What can be wrong with a server, a namespace or a host: found, judged, and what to do about it."""
