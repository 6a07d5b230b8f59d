"""What makes this unit fire: the places of a corpus where it is highest, lowest and as usual.

`contexts` is the stream and its function, `result` what they return, `places` which steps are taken.
"""
