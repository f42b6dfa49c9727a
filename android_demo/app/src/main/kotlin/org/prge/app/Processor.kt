package org.prge.app

/** What the native code needs of the processor. It must be known before that code is loaded: it would end the app. */
object Processor {
    private val NEEDED = listOf("asimddp", "fphp")

    /**
     * What is missing, by the text of /proc/cpuinfo; empty where nothing is, or where it cannot be told.
     *
     * Every core has its own line of features. The native code may run on any of them.
     */
    fun lacks(cpuinfo: String): List<String> {
        val cores = cpuinfo.lines().filter { it.startsWith("Features") }.map { it.substringAfter(':').trim().split(' ') }
        return NEEDED.filter { needed -> cores.any { needed !in it } }
    }

    /** A name for the processor, for reports. */
    fun name(cpuinfo: String): String? {
        val fields = cpuinfo.lines().filter { ':' in it }
            .associate { it.substringBefore(':').trim() to it.substringAfter(':').trim() }
        return fields["Hardware"] ?: fields["model name"]
    }
}
