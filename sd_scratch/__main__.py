from sd_scratch.cli import main

raise SystemExit(main())
