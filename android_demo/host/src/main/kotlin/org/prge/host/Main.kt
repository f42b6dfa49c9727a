package org.prge.host
fun main() {}
