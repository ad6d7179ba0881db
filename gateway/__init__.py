"""The application: API, charge path, books, metrics, CLI. See docs/adr/0001-five-rooms.md."""
