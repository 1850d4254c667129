"""Encoders: graphs run once over a source, whose outputs feed a decoder's contexts and initial states."""
