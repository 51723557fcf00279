{
  "targets": [
    {
      "target_name": "loram",
      "sources": ["<!@(node ../scripts/sources.mjs)"],
      "include_dirs": ["<(node_addon_api)"],
      "defines": [
        "NAPI_VERSION=8",
        "NODE_ADDON_API_CPP_EXCEPTIONS_ALL",
        # A worker thread that is being terminated takes no exception; without this one more would end the process
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
        "LORAM_VERSION=\"<!(node -p \"require('../package.json').version\")\""
      ],
      "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17", "-std=gnu++20"],
      "cflags_cc": ["-std=c++20", "-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-fvisibility=hidden"],
      "libraries": ["-ldl", "-lpthread"]
    }
  ]
}
