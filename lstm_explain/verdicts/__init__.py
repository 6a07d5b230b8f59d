"""Questions about answers: may this explanation be trusted, and do several agree?

A verdict combines analyses, says what it held an explanation against, and ends in one of three words: *shown*, *not shown* (it may still
be so) or *not controlled* (what it would have to be held against isn't there, and why).
"""
