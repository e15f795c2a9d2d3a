"""What every request passes before it reaches a route: id, headers, key and quota, load."""
