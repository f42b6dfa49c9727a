package org.prge.app

import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager

/** Asks Android how the phone is. What it does not tell is taken for good. */
fun phoneOf(context: Context): Phone {
    val battery = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
    val level = battery?.getIntExtra(BatteryManager.EXTRA_LEVEL, -1) ?: -1
    val scale = battery?.getIntExtra(BatteryManager.EXTRA_SCALE, -1) ?: -1
    val power = context.getSystemService(PowerManager::class.java)
    return Phone(
        charging = (battery?.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) ?: 1) != 0,
        battery = if (level < 0 || scale <= 0) 100 else 100 * level / scale,
        heat = if (Build.VERSION.SDK_INT >= 29) power.currentThermalStatus else 0,
    )
}

/** The phone, for a benchmark's report: texts by the names that `prge bench` uses. */
fun machineOf(context: Context): Map<String, String> {
    val memory = android.app.ActivityManager.MemoryInfo()
    context.getSystemService(android.app.ActivityManager::class.java).getMemoryInfo(memory)
    val soc = if (Build.VERSION.SDK_INT >= 31) "${Build.SOC_MANUFACTURER} ${Build.SOC_MODEL}" else null
    return mapOf(
        "cpu" to (soc ?: Processor.name(cpuinfo()) ?: Build.HARDWARE),
        "cores" to Runtime.getRuntime().availableProcessors().toString(),
        "threads" to "0",
        "megabytes" to (memory.totalMem / 1_000_000).toString(),
        "system" to "Android ${Build.VERSION.RELEASE} ${Build.SUPPORTED_ABIS.first()}",
        "phone" to "${Build.MANUFACTURER} ${Build.MODEL}",
    )
}
