"""The file that Streamlit runs: the page's run, and nothing where a new process reads it as its parent's main file."""

if __name__ == "__main__":
    from dashboard.app import main

    main()
