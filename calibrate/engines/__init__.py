"""Each serving engine's constants, fitted on published runs: ``python -m calibrate.engines``.

What an engine's documents and sources say stands in ``data/engines``; what they cannot say is fitted here, on rows
whose committed role is ``fit`` alone (perfmodel/data/published/roles.csv), and never on a LongCat row: cost of an eager
launch, what counted launches take beyond what a launch can, gap per kernel in a graph, time to prepare a step, and what
stands in front of the engine.

A constant must earn its place: starting from none, the one is added that most lowers the errors on groups left out
(each group in turn predicted by constants fitted on the others), as long as they fall by ``WORTH`` (shares of TPOT's
and of TTFT's error, added) and neither rises by more than ``HARM``: what mends one quantity and spoils the other
stands for something else. The rest stay 0.

Every row is served as ``validate`` serves it. Predictions are taken at a few values of each constant around a start and
interpolated between; the fit is made twice, the second time around the first result (which stands if the second is
worse by more than ``HARM`` on groups left out), and the last residuals are of runs served anew.
"""
