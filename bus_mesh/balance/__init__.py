"""Where calls can go: the directory of what is known, and how one instance is picked from it. Pure."""
