"""The small networks that methods are tried on."""
