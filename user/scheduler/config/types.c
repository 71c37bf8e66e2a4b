/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The types of an EndpointPickerConfig that are no filter, scorer or picker: what they are called,
 * what parameters they take, and what they mean in this gateway. Those without a meaning are taken,
 * so that a user's file runs unchanged, and their note says what happens instead.
 */
#include "scheduler/plugin.h"

#define TEXT(n, d)    {n, .kind = PARAM_TEXT, .words = d}
#define BOOLEAN(n, d) {n, .kind = PARAM_BOOL, .value = d}
#define TIME(n, d)    {n, .kind = PARAM_TIME, .value = d, .min = 0, .max = 1e12}
#define TREE(n)	      {n, .kind = PARAM_TREE}
#define WORD(n, w)    {n, .kind = PARAM_WORD, .words = w}
#define NONE	      .flags = PLUGIN_ANY_PARAMS
#define ALPHA	      .flags = PLUGIN_ALPHA

#define NO_TOKENISER                                                                               \
	"prompts are matched by their bytes, 4 to a token: nothing tokenises on the request path"
#define OWN_SCRAPER                                                                                \
	"the gateway's own scraper reads /metrics; see --scrape-interval and --load-stale"
#define OWN_READER "the path of a request says how its body is read"
#define ONE_POOL   "several clusters are not routed to"

/* clang-format off */
#define HTTP_SOURCE                                                                                \
	PARAMS(WORD("scheme", "http|https"), TEXT("path", "/metrics"), NUM("port", 0, 0, 65535),   \
	       BOOLEAN("insecureSkipVerify", 1), TEXT("caCertPath", ""), TEXT("clientCertPath", ""), \
	       TEXT("clientKeyPath", ""), BOOLEAN("useNodeAddress", 0), TIME("interval", 0))
#define PRECISE_ROWS                                                                               \
	PARAMS(NUM("tokenProcessorConfig.blockSizeTokens", 16, 1, 1e6),                            \
	       NUM("tokenProcessorConfig.blockSize", 0, 0, 1e6),                                   \
	       TEXT("tokenProcessorConfig.hashSeed", ""),                                          \
	       WORD("tokenProcessorConfig.hashAlgorithm", "cbor-fnv|xxh64"),                       \
	       NUM("indexerConfig.kvBlockIndexConfig.inMemoryConfig.size", 1e8, 1, 1e15),          \
	       NUM("indexerConfig.kvBlockIndexConfig.inMemoryConfig.podCacheSize", 10, 1, 1e6),    \
	       TEXT("indexerConfig.kvBlockIndexConfig.redisConfig.address", ""),                   \
	       TEXT("indexerConfig.kvBlockIndexConfig.costAwareMemoryConfig.size", ""),            \
	       BOOLEAN("indexerConfig.kvBlockIndexConfig.enableMetrics", 0),                       \
	       NUM("indexerConfig.kvBlockIndexConfig.metricsLoggingInterval", 0, 0, 1e18),         \
	       TREE("indexerConfig.kvCacheBackendConfigs"),                                        \
	       TEXT("kvEventsConfig.zmqEndpoint", ""), TEXT("kvEventsConfig.topicFilter", "kv@"),  \
	       NUM("kvEventsConfig.concurrency", 4, 1, 1024),                                      \
	       WORD("kvEventsConfig.engineType", "vllm|sglang"),                                   \
	       BOOLEAN("kvEventsConfig.discoverPods", 1),                                          \
	       NUM("kvEventsConfig.podDiscoveryConfig.socketPort", 5557, 1, 65535),                \
	       NUM("kvEventsConfig.podDiscoveryConfig.replaySocketPort", 0, 0, 65535),             \
	       TEXT("kvEventsConfig.podDiscoveryConfig.podLabelSelector", ""),                     \
	       TEXT("kvEventsConfig.podDiscoveryConfig.podNamespace", ""),                         \
	       BOOLEAN("speculativeIndexing", 0), TIME("speculativeTTL", 2000))
#define TOKEN_ROWS                                                                                 \
	PARAMS(TEXT("modelName", ""), TEXT("vllm.url", "http://localhost:8000"),                   \
	       TIME("vllm.timeout", 5000), TIME("vllm.mmTimeout", 30000),                          \
	       WORD("estimate.image.mode", "dynamic|static"),                                      \
	       NUM("estimate.image.defaultResolution.width", 640, 1, 1e5),                         \
	       NUM("estimate.image.defaultResolution.height", 360, 1, 1e5),                        \
	       NUM("estimate.image.static.staticToken", 0, 0, 1e6),                                \
	       NUM("estimate.image.dynamic.factor", 1024, 1, 1e9),                                 \
	       NUM("estimate.video.defaultResolution.width", 640, 1, 1e5),                         \
	       NUM("estimate.video.defaultResolution.height", 360, 1, 1e5),                        \
	       NUM("estimate.video.defaultDuration", 10, 0, 1e6),                                  \
	       WORD("estimate.video.tokensPerFrame.mode", "dynamic|static"),                       \
	       NUM("estimate.video.tokensPerFrame.static.numTokensPerFrame", 0, 0, 1e6),           \
	       NUM("estimate.video.tokensPerFrame.dynamic.factor", 1024, 1, 1e9),                  \
	       WORD("estimate.video.frames.mode", "sampled|strided"),                              \
	       NUM("estimate.video.frames.minFrames", 0, 0, 1e6),                                  \
	       NUM("estimate.video.frames.maxFrames", 0, 0, 1e6),                                  \
	       NUM("estimate.video.frames.sampled.sampleFPS", 2, 0, 1e3),                          \
	       NUM("estimate.video.frames.sampled.temporalPatchSize", 0, 0, 1e3),                  \
	       NUM("estimate.video.frames.strided.defaultSourceFPS", 24, 0, 1e3),                  \
	       NUM("estimate.video.frames.strided.frameStride", 0, 0, 1e6),                        \
	       NUM("estimate.video.maxVideoTokens", 0, 0, 1e9), TREE("udsTokenizerConfig"))

const struct plugin_type other_types[] = {
	/* Handlers and deciders. */
	{ "single-profile-handler", PLUGIN_HANDLER, NONE },
	{ "header-profile-handler", PLUGIN_HANDLER, ALPHA,
	  PARAMS(TEXT("headerName", "EPP-Profile"), TEXT("defaultProfile", "decode")) },
	{ "data-parallel-profile-handler", PLUGIN_HANDLER, PLUGIN_DEPRECATED,
	  .note = "each rank's port is an endpoint of its own and is sent to directly",
	  PARAMS(NUM("primaryPort", 8000, 0, 65535)) },
	{ "disagg-profile-handler", PLUGIN_HANDLER,
	  PARAMS(WORD("stageOrder", "decode-first|prefill-first"), TEXT("profiles.decode", "decode"),
		 TEXT("profiles.prefill", "prefill"), TEXT("profiles.encode", "encode"),
		 TEXT("deciders.prefill", ""), TEXT("deciders.encode", ""),
		 TEXT("decodeProfile", "decode"), TEXT("prefillProfile", "prefill"),
		 TEXT("encodeProfile", "encode"), TEXT("prefillDeciderPluginName", ""),
		 TEXT("deciderPluginName", ""), TEXT("encodeDeciderPluginName", "")) },
	{ "pd-profile-handler", PLUGIN_HANDLER, PLUGIN_DEPRECATED,
	  PARAMS(TEXT("decodeProfile", "decode"), TEXT("prefillProfile", "prefill"),
		 TEXT("deciderPluginName", "prefix-based-pd-decider"), NUM("primaryPort", 0, 0, 65535),
		 TEXT("prefixMatchInfoProducerName", ""), TEXT("prefixPluginType", ""),
		 TEXT("prefixPluginName", "")) },
	{ "disagg-headers-handler", PLUGIN_OTHER, PLUGIN_NO_EFFECT,
	  .note = "the gateway runs both legs itself and always sets the headers",
	  PARAMS(TEXT("prefillProfile", "prefill"), TEXT("encodeProfile", "encode")) },
	{ "prefill-header-handler", PLUGIN_OTHER, PLUGIN_NO_EFFECT | PLUGIN_DEPRECATED,
	  .note = "the gateway runs both legs itself and always sets the headers",
	  PARAMS(TEXT("prefillProfile", "prefill"), TEXT("encodeProfile", "encode")) },
	{ "prefix-based-pd-decider", PLUGIN_DECIDER,
	  PARAMS(NUM("nonCachedTokens", 0, 0, 1e9), NUM("promptTokens", 0, 0, 1e9)) },
	{ "always-disagg-pd-decider", PLUGIN_DECIDER, NONE },
	{ "always-disagg-multimodal-decider", PLUGIN_DECIDER, NONE },
	{ "sluice-pd-decider", PLUGIN_DECIDER,
	  PARAMS(NUM("tokensPerSecond", 8000, 1, 1e9), NUM("transferMs", 10, 0, 1e6),
		 NUM("transferUsPerToken", 5, 0, 1e6), NUM("stallShare", 0.1, 0, 1)) },
	{ "never-disagg-pd-decider", PLUGIN_DECIDER, NONE },

	/* Producers. */
	{ "token-producer", PLUGIN_PRODUCER, PLUGIN_NO_EFFECT, .note = NO_TOKENISER, TOKEN_ROWS },
	{ "tokenizer", PLUGIN_PRODUCER, PLUGIN_NO_EFFECT | PLUGIN_DEPRECATED,
	  .note = NO_TOKENISER, TOKEN_ROWS },
	{ "approx-prefix-cache-producer", PLUGIN_PRODUCER,
	  .note = "blocks are --prompt-block-bytes long; an endpoint's share is what its engine says "
		  "it holds",
	  PARAMS(BOOLEAN("autoTune", 1), NUM("blockSizeTokens", 16, 0, 1e6),
		 NUM("blockSize", 0, 0, 1e6), NUM("maxPrefixTokensToMatch", 131072, 0, 1e12),
		 NUM("maxPrefixBlocksToMatch", 2048, 0, 1e12),
		 NUM("lruCapacityPerServer", 31250, 0, 1e12)) },
	{ "precise-prefix-cache-producer", PLUGIN_PRODUCER,
	  .note = "fed by KV events; where an engine sends none, the approximate index serves",
	  PRECISE_ROWS },
	{ "burst-prefix-cache-producer", PLUGIN_PRODUCER, PLUGIN_ALPHA | PLUGIN_NO_EFFECT,
	  .note = "no request is held back: a pick is known to the next one at once, so that a burst "
		  "of one prompt meets by the approximate index",
	  PARAMS(NUM("windowDurationMs", 100, 0, 10000), NUM("maxPerReplica", -1, -1, 1e9),
		 NUM("blockSizeTokens", 64, 1, 1e6), NUM("maxPrefixTokensToMatch", 0, 0, 1e12),
		 NUM("minColocateBlocks", 0, 0, 1e9), NUM("maxBatchSize", 1000, 1, 1e6),
		 WORD("balanceBy", "requests|tokens")) },
	{ "inflight-load-producer", PLUGIN_PRODUCER,
	  .note = "tokens in flight are prompt tokens yet to be prefilled; answers are not estimated",
	  PARAMS(BOOLEAN("addEstimatedOutputTokens", 0), NUM("outputRatio", 1.5, 0, 1e6),
		 NUM("maxEstimatedOutputTokens", 0, 0, 1e12),
		 TEXT("prefixMatchInfoProducerName", ""), BOOLEAN("syncCrossReplicaState", 1)) },
	{ "predicted-latency-producer", PLUGIN_PRODUCER,
	  .note = "the gateway's own model, fitted online per endpoint; no sidecar is asked",
	  PARAMS(NUM("sloBufferFactor", 1, 1e-9, 1e6), NUM("contextTTL", 3e11, 0, 1e18),
		 BOOLEAN("streamingMode", 0), TEXT("endpointRoleLabel", ""),
		 BOOLEAN("predictInProduce", 1), TEXT("prefixMatchInfoProducerName", ""),
		 TEXT("inFlightLoadProducerName", ""), BOOLEAN("useEncoderCacheFeatures", 0),
		 TEXT("encoderCacheMatchInfoProducerName", ""), NUM("samplingMean", 0, 0, 1e12),
		 NUM("maxDecodeTokenSamplesForPrediction", 0, 0, 1e12)) },
	{ "mm-embeddings-cache-producer", PLUGIN_PRODUCER,
	  .note = "what was sent where lately, in one table for all endpoints",
	  PARAMS(NUM("cacheSizeInMBPerServer", 4096, 1, 1e9), NUM("cacheSizeInMB", 4096, 1, 1e9)) },
	{ "session-id-producer", PLUGIN_PRODUCER, PLUGIN_NO_EFFECT,
	  .note = "sessions are named by x-session-id or x-session-token",
	  PARAMS(TEXT("headerName", ""), TEXT("cookieName", "")) },
	{ "p2p-source-producer", PLUGIN_PRODUCER, PLUGIN_ALPHA | PLUGIN_NO_EFFECT,
	  .note = "no x-kv-cache-source-host-port is set",
	  PARAMS(TEXT("prefixMatchInfoProducerName", ""), NUM("minCachedTokenDelta", 1, 0, 1e12),
		 TEXT("prefillProfileName", "prefill")) },

	/* Sources, extractors, discovery. */
	{ "metrics-data-source", PLUGIN_SOURCE, PLUGIN_NO_EFFECT, .note = OWN_SCRAPER, HTTP_SOURCE },
	{ "models-data-source", PLUGIN_SOURCE, PLUGIN_NO_EFFECT,
	  .note = "models are listed every --models-interval", HTTP_SOURCE },
	{ "dcgm-data-source", PLUGIN_SOURCE, PLUGIN_ALPHA | PLUGIN_NO_EFFECT,
	  .note = "no page of DCGM is read: GPUUtilization is missing for every pod", HTTP_SOURCE },
	{ "endpoint-notification-source", PLUGIN_SOURCE, PLUGIN_ANY_PARAMS | PLUGIN_NO_EFFECT,
	  .note = "the endpoint store tells its users itself" },
	{ "k8s-notification-source", PLUGIN_SOURCE, PLUGIN_NO_EFFECT,
	  .note = "the endpoint store tells its users itself",
	  PARAMS(TEXT("group", ""), TEXT("version", ""), TEXT("kind", "")) },
	{ "mock-metrics-source", PLUGIN_SOURCE, PLUGIN_ANY_PARAMS | PLUGIN_NO_EFFECT,
	  .note = "a source of the reference's own tests" },
	{ "core-metrics-extractor", PLUGIN_EXTRACTOR, PLUGIN_NO_EFFECT,
	  .note = "families of vLLM, SGLang and TensorRT-LLM are known by name; customMetrics are not "
		  "read",
	  PARAMS(TEXT("engineLabelKey", "llm-d.ai/engine-type"), TEXT("defaultEngine", "vllm"),
		 TEXT("engineConfigs[].name", ""), TEXT("engineConfigs[].queuedRequestsSpec", ""),
		 TEXT("engineConfigs[].runningRequestsSpec", ""), TEXT("engineConfigs[].kvUsageSpec", ""),
		 TEXT("engineConfigs[].loraSpec", ""), TEXT("engineConfigs[].cacheInfoSpec", ""),
		 TEXT("engineConfigs[].cacheBlockSizeLabelName", ""),
		 TEXT("engineConfigs[].cacheNumBlocksLabelName", ""),
		 TEXT("engineConfigs[].cacheBlockSizeSpec", ""),
		 TEXT("engineConfigs[].cacheNumBlocksSpec", ""),
		 TEXT("engineConfigs[].customMetrics[].attributeKey", ""),
		 TEXT("engineConfigs[].customMetrics[].metricSpec", "")) },
	{ "models-data-extractor", PLUGIN_EXTRACTOR, PLUGIN_ANY_PARAMS | PLUGIN_NO_EFFECT,
	  .note = "models are listed every --models-interval" },
	{ "dcgm-extractor", PLUGIN_EXTRACTOR, PLUGIN_ALPHA | PLUGIN_ANY_PARAMS | PLUGIN_NO_EFFECT,
	  .note = "no page of DCGM is read: GPUUtilization is missing for every pod" },
	{ "topology-extractor", PLUGIN_EXTRACTOR, ALPHA,
	  PARAMS(TEXT("hostname", "kubernetes.io/hostname"),
		 TEXT("rack", "topology.kubernetes.io/rack"),
		 TEXT("zone", "topology.kubernetes.io/zone"),
		 TEXT("region", "topology.kubernetes.io/region")) },
	{ "file-discovery", PLUGIN_DISCOVERY,
	  PARAMS(TEXT("path", ""), BOOLEAN("watchFile", 0)) },

	/* Parsers. */
	{ "openai-parser", PLUGIN_PARSER, PLUGIN_ANY_PARAMS | PLUGIN_NO_EFFECT, .note = OWN_READER },
	{ "anthropic-parser", PLUGIN_PARSER, PLUGIN_ANY_PARAMS | PLUGIN_NO_EFFECT, .note = OWN_READER },
	{ "vllmhttp-parser", PLUGIN_PARSER, PLUGIN_ANY_PARAMS | PLUGIN_NO_EFFECT, .note = OWN_READER },
	{ "sglanghttp-parser", PLUGIN_PARSER, PLUGIN_ANY_PARAMS | PLUGIN_NO_EFFECT, .note = OWN_READER },
	{ "passthrough-parser", PLUGIN_PARSER, PLUGIN_ANY_PARAMS | PLUGIN_NO_EFFECT, .note = OWN_READER },
	{ "vllmgrpc-parser", PLUGIN_PARSER, PLUGIN_ANY_PARAMS | PLUGIN_NO_EFFECT,
	  .note = "gRPC is not spoken: such requests are refused" },
	{ "vertexai-parser", PLUGIN_PARSER, PLUGIN_ANY_PARAMS | PLUGIN_NO_EFFECT,
	  .note = "gRPC is not spoken: such requests are refused" },

	/* Admission and flow control. */
	{ "latency-slo-admitter", PLUGIN_ADMITTER, .note = "refusals are 429",
	  PARAMS(TEXT("latencyPredictionInfoProducerName", "")) },
	{ "probabilistic-admitter", PLUGIN_ADMITTER, .note = "refusals are 429",
	  PARAMS(NUM("queueDepthThreshold", 5, 1e-9, 1e15), NUM("kvCacheUtilThreshold", 0.8, 1e-9, 1),
		 NUM("power", 5, 1e-9, 1e3), NUM("k", 300, 1e-9, 1e12)) },
	{ "fcfs-ordering-policy", PLUGIN_ORDERING, NONE },
	{ "edf-ordering-policy", PLUGIN_ORDERING, NONE },
	{ "slo-deadline-ordering-policy", PLUGIN_ORDERING, NONE },
	{ "global-strict-fairness-policy", PLUGIN_FAIRNESS, NONE },
	{ "round-robin-fairness-policy", PLUGIN_FAIRNESS, NONE },
	{ "program-aware-fairness", PLUGIN_FAIRNESS,
	  PARAMS(WORD("strategy", "las"), NUM("evictionTtlSeconds", 3600, 1, 1e9),
		 NUM("evictionSweepSeconds", 300, 1, 1e9), NUM("lasWeightService", 0.8, 0, 1e6),
		 NUM("lasWeightHeadWait", 0.2, 0, 1e6), NUM("lasHalfLifeSeconds", 60, 1e-3, 1e9)) },
	{ "static-usage-limit-policy", PLUGIN_USAGE_LIMIT, PARAMS(NUM("threshold", 1, 0, 1e9)) },
	{ "priority-holdback-policy", PLUGIN_USAGE_LIMIT, ALPHA,
	  PARAMS(NUM("minCeiling", -1, 0, 1e9), NUM("maxCeiling", 1, 0, 1e9),
		 WORD("domain", "rank|value"), WORD("shape", "linear")) },
	{ "soft-reflective-ceiling-policy", PLUGIN_USAGE_LIMIT, ALPHA },
	{ "sheddable-eviction-filter", PLUGIN_EVICTION, .flags = PLUGIN_ALPHA | PLUGIN_ANY_PARAMS },
	{ "priority-then-time-eviction-order-policy", PLUGIN_EVICTION,
	  .flags = PLUGIN_ALPHA | PLUGIN_ANY_PARAMS },
	{ "agent-identity", PLUGIN_OTHER, ALPHA, PARAMS(TREE("additionalSessionHeaders")) },
	{ "request-attribute-reporter", PLUGIN_OTHER, PLUGIN_NO_EFFECT,
	  .note = "there is no proxy behind this one to tell; the access log has the usage",
	  PARAMS(TEXT("attributes[].key.namespace", "envoy.lb"), TEXT("attributes[].key.name", ""),
		 TEXT("attributes[].expression", ""), TEXT("attributes[].condition", "")) },
	{ "disaggregatedset-rollout-screener", PLUGIN_OTHER, PLUGIN_ALPHA | PLUGIN_REFUSED,
	  .note = "revisions are not told apart here",
	  PARAMS(TREE("scope"), TREE("revisionGating"), TREE("headerSelectors")) },

	{ "multicluster-session-affinity-filter", PLUGIN_FILTER,
	  PLUGIN_ALPHA | PLUGIN_REFUSED | PLUGIN_ANY_PARAMS, .note = ONE_POOL },
	{ "multicluster-queue-scorer", PLUGIN_SCORER,
	  PLUGIN_ALPHA | PLUGIN_REFUSED | PLUGIN_ANY_PARAMS, .note = ONE_POOL },
	{ "multicluster-kv-cache-utilization-scorer", PLUGIN_SCORER,
	  PLUGIN_ALPHA | PLUGIN_REFUSED | PLUGIN_ANY_PARAMS, .note = ONE_POOL },
	{ "multicluster-prefix-cache-scorer", PLUGIN_SCORER,
	  PLUGIN_ALPHA | PLUGIN_REFUSED | PLUGIN_ANY_PARAMS, .note = ONE_POOL },
	{ "multicluster-approx-prefix-cache-producer", PLUGIN_PRODUCER,
	  PLUGIN_ALPHA | PLUGIN_REFUSED | PLUGIN_ANY_PARAMS, .note = ONE_POOL },
	{ "multicluster-metrics-data-source", PLUGIN_SOURCE,
	  PLUGIN_ALPHA | PLUGIN_REFUSED | PLUGIN_ANY_PARAMS, .note = ONE_POOL },
	{ "multicluster-metrics-extractor", PLUGIN_EXTRACTOR,
	  PLUGIN_ALPHA | PLUGIN_REFUSED | PLUGIN_ANY_PARAMS, .note = ONE_POOL },
	{ "multicluster-file-discovery", PLUGIN_DISCOVERY,
	  PLUGIN_ALPHA | PLUGIN_REFUSED | PLUGIN_ANY_PARAMS, .note = ONE_POOL },
	{ .name = NULL },
};
/* clang-format on */
