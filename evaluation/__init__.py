"""How encoders are judged: one module a protocol."""
