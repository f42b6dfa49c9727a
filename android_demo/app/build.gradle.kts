// For Android Studio. Untested: the project builds with Maven and apk/build.py.
plugins {
    id("com.android.application") version "8.13.2"
    id("org.jetbrains.kotlin.android") version "2.2.21"
}

android {
    namespace = "org.prge.app"
    compileSdk = 35
    defaultConfig {
        applicationId = "org.prge.app"
        minSdk = 26
        targetSdk = 35
        versionCode = 1
        versionName = "0.1.0"
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
    kotlinOptions { jvmTarget = "11" }
    // The driver's sources are part of the app here.
    sourceSets["main"].kotlin.srcDir("../core/src/main/kotlin")
}

dependencies {
    implementation("org.pytorch:executorch-android:1.5.1")
    implementation("com.facebook.fbjni:fbjni:0.7.0")
    implementation("com.facebook.soloader:nativeloader:0.10.5")
    implementation("org.jetbrains.kotlinx:kotlinx-serialization-json:1.9.0")
}
