# Manual pages, `make install` and `make uninstall`. DESTDIR and PREFIX as everywhere.
DESTDIR    ?=
SYSCONFDIR ?= /etc
BINDIR     := $(DESTDIR)$(PREFIX)/bin
MANDIR     := $(DESTDIR)$(PREFIX)/share/man
DOCDIR     := $(DESTDIR)$(PREFIX)/share/doc/sluice
UNITDIR    := $(DESTDIR)$(PREFIX)/lib/systemd/system
ETCDIR     := $(DESTDIR)$(SYSCONFDIR)

PROGRAMS := sluiced $(TOOLS)
MAN_IN   := $(wildcard tools/man/*.in)
MAN      := $(MAN_IN:tools/man/%.in=build/man/%) $(patsubst tools/man/%,build/man/%,$(wildcard tools/man/*.[1-8]))
DOCS     := README.md $(wildcard deploy/*.md) LICENSE

.PHONY: man install uninstall
man: $(MAN)

# The options of a page are what the program's --help says: they cannot differ.
define man_rule
build/man/$(1): tools/man/$(1).in tools/man/options.awk $(BIN)/$(basename $(1))
	$$(call say,MAN,$$@) mkdir -p $$(@D) && $(BIN)/$(basename $(1)) --help >$$@.help && \
		awk -v help=$$@.help -f tools/man/options.awk $$< >$$@
endef
$(foreach m,$(MAN_IN:tools/man/%.in=%),$(eval $(call man_rule,$(m))))

build/man/%: tools/man/%
	$(call say,MAN,$@)mkdir -p $(@D) && cp $< $@

install: all man
	$(Q)install -d $(BINDIR) $(UNITDIR) $(DOCDIR) $(ETCDIR)/sluice $(ETCDIR)/logrotate.d
	$(Q)install -m 755 $(PROGRAMS:%=$(BIN)/%) $(BINDIR)
	$(Q)for m in $(MAN); do install -D -m 644 $$m $(MANDIR)/man$${m##*.}/$${m##*/}; done
	$(Q)sed 's|@PREFIX@|$(PREFIX)|g; s|@SYSCONFDIR@|$(SYSCONFDIR)|g' deploy/sluiced.service >$(UNITDIR)/sluiced.service
	$(Q)chmod 644 $(UNITDIR)/sluiced.service
	$(Q)install -m 644 $(DOCS) $(DOCDIR)
	$(Q)install -m 644 deploy/sluiced.yaml $(DOCDIR)/sluiced.yaml.example
	$(Q)install -m 644 deploy/grafana.json deploy/alerts.yaml $(DOCDIR)
	$(Q)test -e $(ETCDIR)/sluice/sluiced.yaml || install -m 644 deploy/sluiced.yaml $(ETCDIR)/sluice/sluiced.yaml
	$(Q)test -e $(ETCDIR)/logrotate.d/sluiced || install -m 644 deploy/logrotate $(ETCDIR)/logrotate.d/sluiced

# A configuration that was changed stays.
uninstall:
	$(Q)rm -f $(PROGRAMS:%=$(BINDIR)/%) $(UNITDIR)/sluiced.service
	$(Q)for m in $(notdir $(MAN)); do rm -f $(MANDIR)/man$${m##*.}/$$m; done
	$(Q)cmp -s deploy/sluiced.yaml $(ETCDIR)/sluice/sluiced.yaml && rm -f $(ETCDIR)/sluice/sluiced.yaml; \
		cmp -s deploy/logrotate $(ETCDIR)/logrotate.d/sluiced && rm -f $(ETCDIR)/logrotate.d/sluiced; true
	$(Q)rm -rf $(DOCDIR); rmdir $(ETCDIR)/sluice 2>/dev/null; true
