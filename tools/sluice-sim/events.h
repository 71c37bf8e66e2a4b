/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a simulated engine publishes about its prefix cache, as vLLM does: ZeroMQ PUB with topic,
 * sequence and a msgpack batch, a ROUTER that replays; and what can go wrong with it, on order.
 */
#ifndef SLUICE_SIM_EVENTS_H
#define SLUICE_SIM_EVENTS_H

#include "sluice-sim/sim.h"

struct events;

/* Binds the sockets of instance number n. Nothing without --zmq-endpoint. Exits on failure.
 */
void events_attach(struct engine *e, const struct sim_options *opt, unsigned int n);
void events_free(struct events *ev);

/* A block of the cache appears or goes: cache.c's observer. */
void events_changed(void *ev, uint64_t hash, bool stored);
/* The chain was stored: those blocks of it that are new are told. */
void events_stored(struct events *ev, const struct cache *cache, const struct seq *s);
void events_cleared(struct events *ev);
/* How busy the engine is: told if it changed, with --load-stat. */
void events_load(struct events *ev, const struct engine *e);
/* Sends what has gathered; answers replays. Once in each turn of the loop. */
void events_run(struct events *ev);
/* The engine is another process now: its numbers begin again. */
void events_restart(struct events *ev);
/* Messages since its start, those that gather included. */
uint64_t events_count(const struct events *ev);
/* The body of GET /kv_event_sources. */
void events_sources(const struct events *ev, char *to, size_t size);

#endif
