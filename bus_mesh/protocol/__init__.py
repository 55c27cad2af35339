"""What is said on the wire, without any I/O: names, subjects, frames, sessions and errors.

Shared by agents and SDKs; public. Import from the modules below it.
"""
