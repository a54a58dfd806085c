"""The OpenAPI document, and the page to try the API."""
