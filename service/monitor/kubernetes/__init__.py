"""The state of workloads: reading it from the Kubernetes API, and assessing it."""
