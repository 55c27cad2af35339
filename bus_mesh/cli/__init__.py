"""`busmesh`, the command line: parsing and printing. What a command does is imported when it is used."""
