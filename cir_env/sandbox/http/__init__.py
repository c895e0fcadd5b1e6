"""The sandbox API over HTTP: clients, and a server that wraps a local sandbox."""
