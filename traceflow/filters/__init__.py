"""Filters: which packets a grabber, or `-f`, is after. Graphs of them, their text, and how each looks at a batch.

A filter is given the indexes of the packets of a batch that came so far, and answers with those that go on. No packet
is copied. `graph` holds what a graph is, `contract` what a kind of filter must give; each other module is one subject.
"""
