"""The what-if dashboard: Streamlit pages over perfmodel. ``perfmodel dashboard`` starts it."""
