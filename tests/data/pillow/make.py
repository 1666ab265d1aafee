"""Makes the files of this folder with Pillow (made with 13.0.0; run it here; tests only read what it made).

One tiny picture for each mode and format; pictures.txt: file, mode, width, `convert("RGB")`, palette indices;
resize.txt: index, sizes, filter and FNV-1a-64 of resized noise.
"""
import random
from PIL import Image

MASK = (1 << 64) - 1


def fnv(data, h=0xCBF29CE484222325):
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & MASK
    return h


def noise(name, n):
    """Bytes of the goldens' generator: the low byte of its 24-bit integers."""
    key, out = fnv(name.encode()), bytearray()
    for i in range(n):
        z = (key + (i + 1) * 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out.append(((z ^ (z >> 31)) >> 40) & 255)
    return bytes(out)


W, H = 7, 5
rows = []


def save(file, image, **options):
    image.save(file, **options)
    back = Image.open(file)
    rgb = back.convert("RGB").tobytes().hex()
    indices = bytes(back.get_flattened_data()).hex() if back.mode == "P" else "-"
    rows.append(f"{file} {back.mode} {back.width} {rgb} {indices}")


grey = Image.frombytes("L", (W, H), noise("L", W * H))
rgb = Image.frombytes("RGB", (W, H), noise("RGB", W * H * 3))
la = Image.frombytes("LA", (W, H), noise("LA", W * H * 2))
rgba = Image.frombytes("RGBA", (W, H), noise("RGBA", W * H * 4))
bits = grey.point(lambda v: 255 * (v > 127)).convert("1")
smooth = Image.linear_gradient("L").resize((24, 17))
smooth = Image.merge("RGB", (smooth, smooth.transpose(Image.Transpose.FLIP_LEFT_RIGHT), smooth.rotate(180)))


def palette(colours, seed):
    image = Image.frombytes("P", (W, H), bytes(v % colours for v in noise(seed, W * H)))
    image.putpalette(noise(seed + "colours", colours * 3))
    return image


for ext in ("png", "bmp", "tif"):
    for mode, image in (("1", bits), ("L", grey), ("RGB", rgb)):
        save(f"{mode}.{ext}", image)
for ext in ("png", "tif"):
    save(f"LA.{ext}", la)
    save(f"RGBA.{ext}", rgba)
    save(f"P256.{ext}", palette(256, "P256"))
save("RGBA.bmp", rgba)
for n in (2, 4, 16):
    save(f"P{n}.png", palette(n, f"P{n}"))
    save(f"P{n}.bmp", palette(n, f"P{n}"))
save("P4alpha.png", palette(4, "P4"), transparency=bytes([0, 128, 255, 7]))
save("Lkey.png", grey, transparency=grey.getpixel((0, 0)))
save("RGBkey.png", rgb, transparency=rgb.getpixel((0, 0)))
save("LZW.tif", rgb, compression="tiff_lzw")
save("deflate.tif", palette(256, "P256"), compression="tiff_adobe_deflate")
save("packbits.tif", bits, compression="packbits")
save("RGB.webp", rgb, lossless=True)
save("RGBA.webp", rgba, lossless=True, exact=True)
for n in (1, 2):  # a mask of 0 and 1, grey and palette
    save(f"ones{n}.png", Image.frombytes("L" if n == 1 else "P", (W, H), bytes(v % 2 for v in noise("ones", W * H))))
exif = Image.Exif()
exif[0x0112] = 6
save("turned.jpg", smooth, quality=95, exif=exif)
save("444.jpg", smooth, quality=95, subsampling=0)
save("420.jpg", smooth, quality=90, subsampling=2)
save("grey.jpg", smooth.convert("L"), quality=95)
save("progressive.jpg", smooth, quality=95, progressive=True)
save("lossy.webp", smooth, quality=95)
open("pictures.txt", "w").write("\n".join(rows) + "\n")

# Refused: each with the word that the sentence must hold.
rgb.convert("CMYK").save("bad_CMYK.jpg")
rgb.convert("CMYK").save("bad_CMYK.tif")
Image.frombytes("I;16", (W, H), noise("16", W * H * 2)).save("bad_16.png")
Image.frombytes("I;16", (W, H), noise("16", W * H * 2)).save("bad_16.tif")
grey.convert("F").save("bad_32.tif")
rgb.save("bad_animated.png", save_all=True, append_images=[rgba.convert("RGB")])
rgb.save("bad_animated.webp", save_all=True, append_images=[rgba.convert("RGB")])
rgb.save("bad_picture.gif")

random.seed(1)
sizes = [(1, 1, 5, 7), (5, 7, 1, 1), (300, 220, 280, 280), (64, 64, 64, 64), (64, 48, 64, 31), (64, 48, 31, 48)]
sizes += [tuple(random.choice((random.randint(1, 9), random.randint(1, 150))) for _ in range(4)) for _ in range(60)]
with open("resize.txt", "w") as out:
    for i, (w, h, ow, oh) in enumerate(sizes):
        mode, c = (("L", 1), ("RGB", 3))[i % 2]
        image = Image.frombytes(mode, (w, h), noise(f"resize{i}", w * h * c))
        for kind in ("BILINEAR", "NEAREST"):
            h64 = fnv(image.resize((ow, oh), Image.Resampling[kind]).tobytes())
            out.write(f"{i} {w} {h} {c} {ow} {oh} {kind} {h64:016x}\n")
