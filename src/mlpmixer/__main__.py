from mlpmixer.cli import main

main()
