"""The REST API: read the request, call the use case, write the answer."""
