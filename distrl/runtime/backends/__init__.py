"""Backends that execute the loop's orders: serial and Ray."""
