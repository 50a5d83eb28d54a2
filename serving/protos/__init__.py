"""Generated messages of the wire format that the client speaks (see `serving_wire.proto`)."""
