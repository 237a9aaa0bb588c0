"""Programs that stand beside perfmodel in a checkout, and within this folder in a wheel: calibrate, reference_model and
dashboard. Their imports name them at top level, so whoever starts one puts this folder on the path; nothing of them is
in site-packages by such a common name.
"""
