#!/bin/sh
# Prints the two Secrets that the base mounts, with values made up now. To be created once, not applied again and again:
#   deploy/kubernetes/make-secrets.sh | kubectl --namespace NAMESPACE create -f -
set -eu

random() { # 32 random bytes as hexadecimal digits, which need no quoting in YAML, ACL files and URLs.
    od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n'
}

jwt_secret=$(random) # 64 characters: enough for HS256, HS384 and HS512.
password=$(random)

# The user of the service may touch the keys and channels of events, and nothing that is dangerous but INFO (not KEYS,
# CONFIG, FLUSHALL); nobody else may do anything.
cat <<EOF
apiVersion: v1
kind: Secret
metadata:
  name: cluster-events
stringData:
  jwt-secret: "$jwt_secret"
  redis-url: redis://cluster-events:$password@cluster-events-redis:6379/0
---
apiVersion: v1
kind: Secret
metadata:
  name: cluster-events-redis
stringData:
  users.acl: |
    user default off
    user cluster-events on >$password ~{ce:* &{ce:* -@all +@connection +@read +@write +@pubsub +@scripting +wait +time -@dangerous +info
EOF
