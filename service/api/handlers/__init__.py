"""The handlers of the routes, and what turns a resource into a response."""
