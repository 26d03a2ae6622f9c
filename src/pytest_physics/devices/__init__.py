"""Reading hardware: one small protocol, four kinds of device."""
