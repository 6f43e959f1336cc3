"""fairquectl, the operator's tool."""
