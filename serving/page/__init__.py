"""A web page on which people try a served model; it asks the server as any client does, by gRPC."""
