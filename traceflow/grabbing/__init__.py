"""Grabbers: graphs of filters with a life cycle, over captures and interfaces that several of them share.

`flowspec` is the definition, `grabber` what becomes of it, `monitor` what runs all of them. `inlets` are the devices,
`sharing` is what graphs have in common, `following` the flow table that filters ask. `buffers`, `grabbed`, `delivery`
and `tracing` are the ways out: a ring of packets, packets in the hand, callbacks, flow tables.
"""
