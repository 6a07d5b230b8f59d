"""The viewer: what was read, coloured by any unit and signal, in the page itself."""
