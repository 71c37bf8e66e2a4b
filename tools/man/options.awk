# Puts the options of a program's --help (variable help: a file) in place of the line ".\" OPTIONS"
# and its commands in place of ".\" COMMANDS" of a manual page.
# A row of the help is two spaces, a word, a placeholder perhaps, two spaces or more, the text.

function escape(s) {
	gsub(/\\/, "\\e", s)
	gsub(/-/, "\\-", s)
	gsub(/…/, "...", s)
	gsub(/µ/, "\\(mc", s)
	return s ~ /^[.']/ ? "\\&" s : s
}

function row(line,   name, arg, text) {
	sub(/^ +/, "", line)
	name = line
	sub(/ .*/, "", name)
	line = substr(line, length(name) + 1)
	arg = ""
	if (line ~ /^ [A-Z]/) {
		arg = substr(line, 2)
		sub(/ .*/, "", arg)
		line = substr(line, length(arg) + 2)
	}
	text = line
	sub(/^ +/, "", text)
	print ".TP"
	if (arg != "")
		print ".BI " escape(name) " \" " escape(arg) "\""
	else
		print ".B " escape(name)
	print escape(toupper(substr(text, 1, 1)) substr(text, 2) ".")
}

function command(line,   at) {
	sub(/^ +/, "", line)
	at = match(line, /  +/)
	print ".TP"
	print ".B " escape(substr(line, 1, at - 1))
	line = substr(line, at + RLENGTH)
	print escape(toupper(substr(line, 1, 1)) substr(line, 2) ".")
}

/^\.\\" (OPTIONS|COMMANDS)$/ {
	commands = /COMMANDS/
	blank = 0
	while ((getline line < help) > 0) {
		if (line == "")
			blank = 1
		else if (line ~ /^  --/ && !commands)
			row(line)
		else if (line ~ /^  [a-z]/ && commands)
			command(line)
		else if (blank && !commands && line ~ /^[A-Z][A-Za-z ]*$/)
			print ".SS " line
		if (line != "")
			blank = 0
	}
	close(help)
	next
}
{ print }
