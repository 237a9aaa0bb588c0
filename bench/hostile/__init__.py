"""What happens when inputs are broken at random: `make hostile`.

Every input is made from a seed, so that one that breaks the program can be made again (``--only KIND/SEED``). Most are
tried in a few forked workers that live long, each input under a limit of time and memory; killed writers and file
conditions take processes of their own. What comes out is counted by kind of input (:mod:`bench.hostile.tally`).

One module per kind of input, each with functions ``(chance, folder) -> why an answer is wrong, or None``:
``scenarios`` (files, overrides, models' configs, families), ``traffic`` (traces, results, workloads, measurements),
``tables`` (routing files, calibrations), ``commands`` (whole command lines, launch flags), ``links`` (addresses and
uploads of the dashboard) and ``places`` (paths). ``oracles`` knows what no answer may say. ``kills`` and ``conditions``
are the processes; ``campaign`` puts it together.
"""
